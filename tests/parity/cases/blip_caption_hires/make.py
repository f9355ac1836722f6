"""Makes this case again with transformers (see ../write.py)."""

import sys
from pathlib import Path

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal


def main():
    text = dict(vocab_size=100, hidden_size=24, encoder_hidden_size=32, intermediate_size=48, num_attention_heads=3,
                num_hidden_layers=1, max_position_embeddings=32, bos_token_id=98, eos_token_id=2, sep_token_id=3,
                pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, label_smoothing=0.1)
    vision = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1, image_size=32,
                  patch_size=8)
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    model = fill(BlipForConditionalGeneration(config), 71).eval()
    ids = torch.randint(4, 97, [2, 7], generator=torch.Generator().manual_seed(11))
    ids[:, 0] = 98
    mask = torch.ones_like(ids)
    ids[1, 5:] = 0
    mask[1, 5:] = 0
    pixels = normal([2, 3, 48, 48], 12)
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, interpolate_pos_encoding=True)
        generated = model.generate(pixels, max_new_tokens=8, do_sample=False, interpolate_pos_encoding=True)
    weights = model.state_dict()
    # Tied to the word embeddings and to `predictions.bias`.
    for name in ("text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"):
        weights.pop(name, None)
    case(
        Path(__file__).parent,
        "transformers.BlipForConditionalGeneration",
        config.to_dict(),
        {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels},
        {"logits": out.logits, "image_embeds": out.last_hidden_state, "greedy_ids": generated},
        weights,
        call="interpolate_pos_encoding=True, 48x48 with a 32x32/patch-8 model",
        notes="transformers 5.23.0; the same result must come from resizing the position table once at load time",
        mask_outputs={"logits": "attention_mask"},
    )


if __name__ == "__main__":
    main()
