"""histoxai: where did the tissue classifier look, and is that where the tumor is?"""

__version__ = "0.1.0"
