"""What the demo corpus is made of: speech, faces, and the plan that says what each clip shows and sounds like."""
