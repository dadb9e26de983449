"""Explanations beside serving: a queue, a process of their own, and where they are kept."""
