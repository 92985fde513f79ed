"""Clients whose methods are awaited; the same names as in `_sync`, method for method."""
