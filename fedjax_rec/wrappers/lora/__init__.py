"""Rules that treat LoRA's factors as two halves of one matrix.

Any other rule averages the factors one by one. With `fixed=("lora_a",)` clients train
only `B` (FFA-LoRA), and with `personal=("lora_b",)` only `A` is shared (FedSA-LoRA);
both leave no gap between the mean product and the product of the means.
"""
