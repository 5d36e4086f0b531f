"""Starts the PyTorch side of a comparison; see conversation.py."""

from torch_bench.conversation import main

main()
