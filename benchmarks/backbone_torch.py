"""The round of `backbone_ways.py` in PyTorch, transformers and peft."""

from typing import Any

import numpy as np
from backbone_ways import ALPHA, BATCH, RANK, RATE, STEPS, TARGETS, Workload

from fedjax_rec.backbones import locate
from fedjax_rec.runs.session import cores


class Torch:
    """A sequential loop over clients, which resets the trained tensors for each."""

    def __init__(self, work: Workload, attention: str = "sdpa"):
        import peft  # pyright: ignore[reportMissingImports]
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(cores())
        self.torch, self.clients = torch, len(work.items)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        backbone: Any = transformers.AutoModel.from_pretrained(
            locate(work.name), attn_implementation=attention
        )
        names = [site.rsplit("/", 1)[1] for site in TARGETS]
        config = peft.LoraConfig(
            r=RANK, lora_alpha=int(ALPHA), target_modules=names, lora_dropout=0.0
        )
        # Dropout is off in evaluation mode; gradients are not.
        self.model = peft.get_peft_model(backbone, config).to(self.device).eval()
        lengths = work.lengths
        if lengths.min() != lengths.max():
            raise ValueError("texts must have one length: there is no padding")
        tokens = np.asarray(work.tokens.values)[:-1].reshape(len(lengths), -1)
        self.tokens = self._tensor(tokens.astype(np.int64))
        self.items = self._tensor(work.items.astype(np.int64))
        self.labels = self._tensor(work.labels)
        self.users = self._tensor(work.user)
        # Trained tensors by path; a LoRA's paths end in the layer.
        self.named: dict[str, Any] = {}
        modules = dict(self.model.named_modules())
        with torch.no_grad():
            for group, part in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
                for site in TARGETS:
                    for layer, value in enumerate(np.asarray(work.shared[group][site])):
                        module = modules[
                            f"base_model.model.encoder.layer.{layer}.attention.self."
                            f"{site.rsplit('/', 1)[1]}.{part}.default"
                        ]
                        module.weight.copy_(self._tensor(value.T.copy()))
                        self.named[f"['{group}']['{site}'],{layer}"] = module.weight
        for group in ("head", "common"):
            for name, value in work.shared[group].items():
                tensor = self._tensor(np.array(value)).requires_grad_(True)
                self.named[f"['{group}']['{name}']"] = tensor
        self.start = {k: v.detach().clone() for k, v in self.named.items()}
        self.losses_seen = np.zeros((len(work.items), STEPS))

    def _tensor(self, array: np.ndarray):
        return self.torch.from_numpy(np.array(array)).to(self.device)

    def _loss(self, items, labels, user):
        torch, named = self.torch, self.named
        # Every token is real, so that pooling is a mean without a mask.
        hidden = self.model(input_ids=self.tokens[items]).last_hidden_state
        pooled = torch.nn.functional.normalize(hidden.mean(1), dim=-1)
        vectors = pooled @ named["['head']['w']"] + named["['head']['b']"]
        scores = vectors @ (named["['common']['user']"] + user)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            scores + named["['common']['bias']"], labels
        )

    def step(self) -> None:
        torch = self.torch
        sums = {k: torch.zeros_like(v) for k, v in self.start.items()}
        for client in range(self.clients):
            with torch.no_grad():
                for name, tensor in self.named.items():
                    tensor.copy_(self.start[name])
            user = self.users[client].clone().requires_grad_(True)
            optimizer = torch.optim.SGD([*self.named.values(), user], lr=RATE)
            for i in range(STEPS):
                step = slice(i * BATCH, (i + 1) * BATCH)
                optimizer.zero_grad()
                items, labels = self.items[client, step], self.labels[client, step]
                loss = self._loss(items, labels, user)
                loss.backward()
                optimizer.step()
                self.losses_seen[client, i] = loss.item()
            with torch.no_grad():
                for name, tensor in self.named.items():
                    sums[name] += tensor
                self.users[client] = user
        self.start = {k: v / self.clients for k, v in sums.items()}

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters named as in `Ours`, with the layers stacked."""
        arrays: dict[str, Any] = {"user": self.users.cpu().numpy()}
        for name, tensor in self.start.items():
            path, _, layer = name.partition(",")
            value = tensor.cpu().numpy()
            if layer:
                arrays.setdefault(path, []).append(value.T)
            else:
                arrays[path] = value
        return {k: np.stack(v) if isinstance(v, list) else v for k, v in arrays.items()}
