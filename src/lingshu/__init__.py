"""lingshu: from medical images and text to a curated dataset, a trained multimodal model and scores
to trust.
"""

__version__ = "0.1.0"
