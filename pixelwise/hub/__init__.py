"""Trained networks on the Hugging Face hub, in its own conventions.

A repository holds `model.safetensors`, a checkpoint as `save` writes it; `config.json`, which tells other
programs what it is; and `README.md`, the model card, made from the run's report.
"""

from .folder import save_for_hub as save_for_hub
from .remote import from_hub as from_hub, push_to_hub as push_to_hub
