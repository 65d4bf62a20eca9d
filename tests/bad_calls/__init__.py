"""Wrong calls of every op, made from right ones and judged in other processes: see ops/test_bad_calls.py."""
