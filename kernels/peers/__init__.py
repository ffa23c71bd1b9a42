"""Programs that run in a process of their own beside the benchmark: PyTorch's attention, and how they answer."""
