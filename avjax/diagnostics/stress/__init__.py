"""Stress tests: what is done to clips to see what a model does.

corruption.py   the suite of corruptions by name, and ``corrupted``; rows.py says what one is
picture.py, blur.py, weather.py   of single frames
frames.py       of frames over time
sound.py, channel.py   noise at a measured SNR; rooms, converters and lines
joint.py        both at once, of one cause
misalignment.py, missing.py, imbalance.py   sound out of sync; modalities or steps not there; one that says less
"""
