"""Makes this case again with open_clip (see ../write.py)."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from open_clip.model import CLIP

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 3, "layers": 1},
}


def main():
    model = fill(CLIP(**CONFIG), 21).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
    image = normal([4, 3, 32, 32], 1)
    text = torch.randint(1, 60, [4, 12], generator=torch.Generator().manual_seed(2))
    for row, end in enumerate([11, 5, 7, 3]):
        text[row, end] = 63
        text[row, end + 1 :] = 0
    with torch.no_grad():
        images, texts = model.encode_image(image), model.encode_text(text)
        scale = model.logit_scale.exp()
        images_1, texts_1 = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
        outputs = {
            "image_features": images,
            "text_features": texts,
            "logits_per_image": scale * images_1 @ texts_1.T,
            "logit_scale_exp": scale,
            "loss": ClipLoss()(images_1, texts_1, scale),
        }
    case(
        Path(__file__).parent,
        "open_clip.model.CLIP (VisionTransformer)",
        CONFIG,
        {"image": image, "text": text},
        outputs,
        model.state_dict(),
        call="encode_image / encode_text (un-normalised), logits with L2 norm",
        notes="open_clip_torch 3.3.0; texts are pooled at the largest id",
    )


if __name__ == "__main__":
    main()
