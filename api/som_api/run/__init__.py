"""What every process of ours runs on, whatever it does.

- `clock`: time as a value that is handed in, so that tests own it.
- `backoff`: growing, jittered pauses between attempts.
- `workqueue`: reconciles keys with de-duplication, back-off and bounded workers.
- `heartbeats`: which loop hangs, for /healthz.
"""
