"""The passes of the reconcile loop, one file each. Idempotent: a pass may fail, and the next one goes on."""
