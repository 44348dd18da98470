"""som.ko on the nodes that need it: one pod per node loads it, and one unloads it.

- `loader` is the program in that pod, and `results` what it answers: its exit status is the truth.
- `pods` makes the pod and reads it; `decide` says what a node is due; `driver` does that.
"""
