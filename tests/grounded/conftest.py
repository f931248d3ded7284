"""Tiny networks of text with random weights, as transformers saves them."""

from pathlib import Path

import pytest
import torch

WORDS = ("dog", "cat", "red", "ball", "a")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `dino` and `clipseg`."""
    import transformers
    from transformers import BertTokenizerFast, CLIPSegConfig, CLIPSegForImageSegmentation

    place = tmp_path_factory.mktemp("networks")
    # Grounding DINO knows [CLS], [SEP], "." and "?" by BERT's numbers.
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    vocabulary = [special.get(n, f"[unused{n}]") for n in range(1030)] + list(WORDS)
    (place / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(place / "vocab.txt"))
    torch.manual_seed(0)
    dino = transformers.GroundingDinoForObjectDetection(
        transformers.GroundingDinoConfig(
            backbone_config=transformers.SwinConfig(
                image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
                out_features=["stage2", "stage3", "stage4"],
            ),
            text_config={
                "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 16,
                "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "max_position_embeddings": 64,
            },
            d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
            encoder_attention_heads=2, decoder_attention_heads=2, num_queries=20, max_text_len=32,
        )
    )  # fmt: skip
    clipseg = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={
                "vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 16,
                "eos_token_id": 102, "num_hidden_layers": 1, "num_attention_heads": 2,
                "max_position_embeddings": 16,
            },
            vision_config={
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
                "image_size": 32, "patch_size": 8,
            },
            projection_dim=16, extract_layers=[1, 2], reduce_dim=8, decoder_num_attention_heads=2,
            decoder_intermediate_size=8,
        )
    )  # fmt: skip
    for name, model in (("dino", dino), ("clipseg", clipseg)):
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return place
