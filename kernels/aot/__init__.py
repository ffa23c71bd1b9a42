"""Ahead-of-time compilation for TPUs without a TPU: what fits, how long a block's schedule is, what registers spill.

jobs.py      what is compiled, and the steps that its grid takes
compiler.py  a compiling process with a time limit, and its figures
worker.py    that process
bundles.py   reads libtpu's schedules
tuning.py    searches for sizes of blocks by these figures
"""
