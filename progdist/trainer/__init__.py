"""The state machine of a run: train a phase, measure it, swap teacher and student."""
