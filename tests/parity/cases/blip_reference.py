"""BLIP's training objectives in PyTorch, under the names of its first release.

`pretrain` and `retrieval` follow the computation of `models/blip_pretrain.py` and
`models/blip_retrieval.py` of github.com/salesforce/BLIP step by step, on the text transformer of
transformers, which is a port of the original one with the same parameter names. The negatives of a
batch of two samples are the other sample, so the cases draw nothing. `tests/peers/reference.py` trains
the same network in its published size.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel


class Block(nn.Module):
    def __init__(self, dim, heads, hidden, eps):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        rows, tokens, dim = x.shape
        qkv = self.attn.qkv(self.norm1(x)).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(rows, tokens, dim)
        x = x + self.attn.proj(attended)
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """timm's, with the last norm on every token."""

    def __init__(self, img, patch, dim, depth, heads, mlp_ratio, ln_eps):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (img // patch) ** 2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio * dim, ln_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, ln_eps)

    def forward(self, image):
        x = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Blip(nn.Module):
    """Encoders, their momentum copies, queues, and the decoder where one is trained."""

    def __init__(self, config, decodes):
        super().__init__()
        bert, vit, tokens, common = config["bert"], config["vit"], config["tokenizer"], config["embed_dim"]
        text = BlipTextConfig(
            vocab_size=tokens["vocab"], hidden_size=bert["hidden"], encoder_hidden_size=vit["dim"],
            intermediate_size=bert["ffn"], num_attention_heads=bert["heads"], num_hidden_layers=bert["layers"],
            max_position_embeddings=bert["max_pos"], layer_norm_eps=bert["ln_eps"], hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, pad_token_id=tokens["pad"], bos_token_id=tokens["dec"],
            sep_token_id=tokens["sep"], label_smoothing=0.1,
        )
        sizes = {key: vit[key] for key in ("img", "patch", "dim", "depth", "heads", "mlp_ratio", "ln_eps")}
        for end in ("", "_m"):
            setattr(self, f"visual_encoder{end}", VisionTransformer(**sizes))
            setattr(self, f"vision_proj{end}", nn.Linear(vit["dim"], common))
            setattr(self, f"text_encoder{end}", BlipTextModel(text, add_pooling_layer=False))
            setattr(self, f"text_proj{end}", nn.Linear(bert["hidden"], common))
        self.itm_head = nn.Linear(bert["hidden"], 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, torch.zeros(common, config["queue_size"]))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.tied = []
        if decodes:
            self.text_decoder = BlipTextLMHeadModel(text)
            self.tied = self.tie()
        self.config = config

    def tie(self):
        """The decoder shares all with the encoder but self-attention; returns the names of the copies."""
        tied = ["text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.decoder.weight"]
        predictions = self.text_decoder.cls.predictions
        predictions.decoder.weight = self.text_decoder.bert.embeddings.word_embeddings.weight
        predictions.decoder.bias = predictions.bias
        for name, parameter in list(self.text_decoder.bert.named_parameters()):
            if ".attention." not in name:
                path, _, leaf = name.rpartition(".")
                setattr(self.text_encoder.get_submodule(path), leaf, parameter)
                tied.append(f"text_encoder.{name}")
        return sorted(tied)

    def momentum_update(self):
        momentum = self.config["momentum"]
        for name in ("visual_encoder", "vision_proj", "text_encoder", "text_proj"):
            online, copy = getattr(self, name), getattr(self, f"{name}_m")
            for (key, new), (other, old) in zip(online.named_parameters(), copy.named_parameters()):
                assert key == other
                old.data = old.data * momentum + new.data * (1.0 - momentum)

    def features(self, image, ids, mask, end=""):
        part = lambda name: getattr(self, f"{name}{end}")
        states = part("visual_encoder")(image)
        text = part("text_encoder")(input_ids=ids, attention_mask=mask).last_hidden_state
        unit = lambda x: F.normalize(x, dim=-1)
        return states, unit(part("vision_proj")(states[:, 0])), unit(part("text_proj")(text[:, 0]))

    def contrast(self, image, ids, mask, alpha, targets_of):
        """Image-text contrast over the batch and the queues, whose oldest entries are then replaced."""
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        states, images, texts = self.features(image, ids, mask)
        with torch.no_grad():
            self.momentum_update()
            _, images_m, texts_m = self.features(image, ids, mask, "_m")
            all_images = torch.cat([images_m.T, self.image_queue.clone()], 1)
            all_texts = torch.cat([texts_m.T, self.text_queue.clone()], 1)
            hard = targets_of(all_texts.shape[1])
            soft = lambda similarity: alpha * F.softmax(similarity, dim=1) + (1 - alpha) * hard
            i2t_targets = soft(images_m @ all_texts / self.temp)
            t2i_targets = soft(texts_m @ all_images / self.temp)
        i2t, t2i = images @ all_texts / self.temp, texts @ all_images / self.temp
        half = lambda logits, targets: -torch.sum(F.log_softmax(logits, dim=1) * targets, dim=1).mean()
        loss = (half(i2t, i2t_targets) + half(t2i, t2i_targets)) / 2
        start, rows = int(self.queue_ptr), len(image)
        self.image_queue[:, start : start + rows] = images_m.T
        self.text_queue[:, start : start + rows] = texts_m.T
        self.queue_ptr[0] = (start + rows) % self.config["queue_size"]
        return states, images, texts, loss, (i2t, t2i, i2t_targets, t2i_targets)

    def matching(self, states, ids, mask, images=(1, 0), texts=(1, 0)):
        """Logits of the pairs, of each text with another image, and of each image with another text."""
        ids = ids.clone()
        ids[:, 0] = self.config["tokenizer"]["enc"]
        images, other = torch.as_tensor(images), torch.as_tensor(texts)
        texts, masks = torch.cat([ids, ids, ids[other]]), torch.cat([mask, mask, mask[other]])
        pictures = torch.cat([states, states[images], states])
        hidden = self.text_encoder(
            input_ids=texts, attention_mask=masks, encoder_hidden_states=pictures,
            encoder_attention_mask=torch.ones(pictures.shape[:2], dtype=torch.long, device=pictures.device),
        ).last_hidden_state
        logits = self.itm_head(hidden[:, 0])
        rows = len(ids)
        labels = torch.cat([torch.ones(rows), torch.zeros(2 * rows)]).long().to(logits.device)
        return logits, F.cross_entropy(logits, labels)

    def language(self, states, ids, mask):
        ids = ids.clone()
        ids[:, 0] = self.config["tokenizer"]["dec"]
        labels = ids.masked_fill(ids == self.config["tokenizer"]["pad"], -100)
        out = self.text_decoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device), labels=labels, reduction="mean",
        )
        return out.logits, out.loss

    def stored(self):
        """Parameters and buffers without the copies of tied ones."""
        return {k: v.clone() for k, v in self.state_dict().items() if k not in self.tied and "position_ids" not in k}
