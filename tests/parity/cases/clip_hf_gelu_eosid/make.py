"""Makes this case again with transformers (see ../write.py)."""

import sys
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal

EOS = 40


def main():
    text = dict(vocab_size=64, hidden_size=24, intermediate_size=48, num_attention_heads=3, num_hidden_layers=1,
                max_position_embeddings=12, hidden_act="gelu", bos_token_id=1, eos_token_id=EOS, pad_token_id=EOS)
    vision = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1, image_size=48,
                  patch_size=16, hidden_act="gelu")
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = fill(CLIPModel(config), 41).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
    # Ids above the end token, and padding of the end token's id.
    ids = torch.randint(1, 64, [4, 12], generator=torch.Generator().manual_seed(5))
    ids[ids == EOS] = 63
    mask = torch.ones_like(ids)
    for row, end in enumerate([11, 4, 8, 2]):
        ids[row, end:] = EOS
        mask[row, end + 1 :] = 0
    pixels = normal([4, 3, 48, 48], 6).half().float()
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, return_loss=True)
    outputs = {name: out[name] for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss")}
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
        {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels.half()},
        outputs,
        model.state_dict(),
        call="model(input_ids, pixel_values, attention_mask, return_loss=True)",
        notes="transformers 5.23.0; texts are pooled at the first end token; pictures are stored as F16",
        mask_outputs={"text_last_hidden_state": "attention_mask"},
    )


if __name__ == "__main__":
    main()
