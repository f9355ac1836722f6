"""Makes this case again with ../blip_reference.py (see ../write.py)."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from blip_reference import Blip
from write import case, fill, normal

CONFIG = {
    "alpha": 0.4,
    "momentum": 0.9,
    "queue_size": 8,
    "embed_dim": 8,
    "max_txt_len": 10,
    "bert": {"hidden": 12, "ffn": 24, "heads": 3, "layers": 2, "ln_eps": 1e-12, "max_pos": 12},
    "vit": {"img": 16, "patch": 8, "dim": 12, "depth": 1, "heads": 3, "mlp_ratio": 2, "ln_eps": 1e-06},
    "tokenizer": {"pad": 0, "cls": 2, "sep": 3, "dec": 43, "enc": 44, "vocab": 45},
}
GRADIENTS = [
    "itm_head.weight",
    "temp",
    "text_decoder.bert.encoder.layer.1.attention.self.query.weight",
    "text_encoder.embeddings.word_embeddings.weight",
    "text_encoder.encoder.layer.0.crossattention.self.key.weight",
    "text_encoder.encoder.layer.1.attention.self.query.weight",
    "vision_proj.weight",
    "visual_encoder.patch_embed.proj.weight",
]
AFTER = [
    "text_encoder_m.encoder.layer.0.attention.self.query.weight",
    "vision_proj_m.weight",
    "visual_encoder_m.patch_embed.proj.weight",
]


def main():
    model = fill(Blip(CONFIG, decodes=True), 81).train()
    model.image_queue.copy_(F.normalize(normal([8, 8], 82), dim=0))
    model.text_queue.copy_(F.normalize(normal([8, 8], 83), dim=0))
    model.queue_ptr[0] = 4
    first = model.stored()
    ids = torch.randint(4, 43, [2, 10], generator=torch.Generator().manual_seed(13))
    mask = torch.ones_like(ids)
    ids[:, 0] = CONFIG["tokenizer"]["cls"]
    for row, last in enumerate([9, 6]):
        ids[row, last] = CONFIG["tokenizer"]["sep"]
        ids[row, last + 1 :] = 0
        mask[row, last + 1 :] = 0
    image = normal([2, 3, 16, 16], 14)
    alpha = torch.tensor(0.2)

    def own(columns):
        return torch.zeros(2, columns).fill_diagonal_(1)

    states, _, _, itc, (i2t, t2i, i2t_targets, t2i_targets) = model.contrast(image, ids, mask, alpha, own)
    itm_logits, itm = model.matching(states, ids, mask)
    decoder_logits, lm = model.language(states, ids, mask)
    loss = itc + itm + lm
    loss.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    outputs = {f"grad.{name}": parameters[name].grad for name in GRADIENTS}
    outputs |= {f"after.{name}": parameters[name] for name in AFTER}
    outputs |= {
        "loss": loss, "loss_itc": itc, "loss_itm": itm, "loss_lm": lm,
        "sim_i2t": i2t, "sim_t2i": t2i, "sim_i2t_targets": i2t_targets, "sim_t2i_targets": t2i_targets,
        "itm_logits": itm_logits, "decoder_logits": decoder_logits,
        "image_queue_after": model.image_queue, "text_queue_after": model.text_queue, "queue_ptr_after": model.queue_ptr,
    }
    case(
        Path(__file__).parent,
        "lavis.models.blip_models.BlipPretrain",
        CONFIG | {"tied_keys": model.tied},
        {"image": image, "input_ids": ids, "attention_mask": mask, "alpha": alpha},
        outputs,
        first,
        notes="negatives of a batch of two are the other sample; momentum encoders are updated before their features; "
        "the queue is written after the similarities; tied_keys are absent from model.safetensors",
        mask_outputs={"decoder_logits": "attention_mask"},
    )


if __name__ == "__main__":
    main()
