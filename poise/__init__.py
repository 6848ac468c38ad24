"""poise: generative adversarial networks that train stably.

``import poise`` needs torch alone and stays quick; the trainer, the metrics and the report load on first use.
"""
