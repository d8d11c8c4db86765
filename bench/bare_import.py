"""A process that has imported aiortc and does nothing: what the memory of ours is set beside."""

from __future__ import annotations

import sys

import aiortc

if __name__ == "__main__":
    print(f'{{"aiortc": "{aiortc.__version__}"}}', flush=True)
    sys.stdin.read()
