"""Entry point of `python -m moe_watch`."""

from __future__ import annotations

from moe_watch import main

if __name__ == "__main__":
    main()
