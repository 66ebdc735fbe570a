"""A tiny Qwen2.5-VL that looks at the mini world: its data, its training, its export, and how well it reasons.

It is trained from nothing, answers the prompts of `reason` as any other model does, and its errors are its own.
"""
