"""Evaluation of models: sampling, features, metrics, and the rows of eval.jsonl."""
