"""lingshu: curate medical images and text, train multimodal models, evaluate and serve them."""

import logging

__version__ = "0.1.0"

logging.getLogger("lingshu").addHandler(logging.NullHandler())
