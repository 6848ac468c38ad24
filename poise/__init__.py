"""poise: generative adversarial networks that train stably. ``import poise`` needs torch alone; the rest loads on use."""
