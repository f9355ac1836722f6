"""Makes this case again with transformers (see ../write.py)."""

import sys
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal


def main():
    text = dict(vocab_size=64, hidden_size=24, intermediate_size=48, num_attention_heads=3, num_hidden_layers=1,
                max_position_embeddings=12, hidden_act="quick_gelu", bos_token_id=1, eos_token_id=2, pad_token_id=0)
    vision = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1, image_size=32,
                  patch_size=8, hidden_act="quick_gelu")
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = fill(CLIPModel(config), 51).eval()
    ids = torch.randint(3, 60, [2, 12], generator=torch.Generator().manual_seed(7))
    ids[0, 11] = ids[1, 6] = 63
    ids[1, 7:] = 0
    pixels = normal([2, 3, 48, 64], 8)
    embeddings = model.vision_model.embeddings

    def table(down, across):
        """The positions for pictures of `down` by `across` patches; the method reads their shape alone."""
        shape = torch.zeros(1, 1 + down * across, 32)
        return embeddings.interpolate_pos_encoding(shape, 8 * down, 8 * across)[0]

    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels, return_loss=True, interpolate_pos_encoding=True)
        outputs = {
            "interpolated_pos_embed": table(6, 8),
            "interpolated_7x7": table(7, 7),
            "interpolated_2x3_down": table(2, 3),
        }
    outputs |= {name: out[name] for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss")}
    outputs |= {
        "text_last_hidden_state": out.text_model_output.last_hidden_state,
        "text_pooler_output": out.text_model_output.pooler_output,
        "vision_last_hidden_state": out.vision_model_output.last_hidden_state,
        "vision_pooler_output": out.vision_model_output.pooler_output,
    }
    case(
        Path(__file__).parent,
        "transformers.CLIPModel",
        config.to_dict(),
        {"input_ids": ids, "pixel_values": pixels},
        outputs,
        model.state_dict(),
        call="model(..., interpolate_pos_encoding=True) at 48x64 with a 32x32 / patch 8 model",
        notes="transformers 5.23.0; bicubic a=-0.75, align_corners=False, no antialias; the class position is kept",
    )


if __name__ == "__main__":
    main()
