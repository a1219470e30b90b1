# ruff: noqa: E501, SIM905 - the lists are tables
"""Networks of timm and transformers, one a family: does each pass, and how much of it is prunable?

python tests/strangers/zoo.py [WORDS ...]    # prints rows; all of them also go to data/records/networks.md
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsa_core.budget import Cost
from dsa_core.errors import DSAError
from dsa_core.example import Call
from dsa_core.lab.check import compare
from dsa_core.surgery.verify import random_channels, randomise
from dsa_core.tracing import trace

TIMM = """
beit_base_patch16_224 botnet26t_256 eca_resnext26ts cait_xxs24_224 coat_lite_tiny convit_tiny
convmixer_768_32 convnext_atto crossvit_9_240 cs3darknet_focus_s davit_tiny deit3_small_patch16_224
densenet121 dla46_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0
efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny ghostnet_050 hardcorenas_a hgnet_tiny hiera_tiny_224 hrnet_w18_small
inception_next_atto inception_v3 inception_v4 inception_resnet_v2 levit_128s mambaout_femto
coatnet_nano_rw_224 maxvit_pico_rw_256 poolformer_s12 caformer_s18 gmlp_ti16_224 mixer_s32_224
resmlp_12_224 tf_mixnet_s mobilenetv3_small_050 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
nest_tiny nextvit_small nf_resnet26 pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002
repghostnet_050 repvit_m0_9 repvgg_a0 res2net50_26w_4s resnest14d ecaresnet26t resnetv2_50
resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s1
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256
tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small vgg11_bn visformer_tiny
vit_tiny_patch16_224 vit_relpos_small_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim
legacy_xception xception41 xcit_nano_12_p16_224
""".split()
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "vocab_size": 50}  # fmt: skip
LLM = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
VIT = {"image_size": 32, "patch_size": 8, **{k: v for k, v in SMALL.items() if k != "vocab_size"}}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", SMALL),
    "roberta": ("RobertaModel", {**SMALL, "pad_token_id": 0}),
    "electra": ("ElectraModel", {**SMALL, "embedding_size": 16}),
    "albert": ("AlbertModel", {**SMALL, "embedding_size": 16}),
    "distilbert": ("DistilBertModel", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50}),
    "mobilebert": ("MobileBertModel", {**SMALL, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    "deberta_v2": ("DebertaV2Model", SMALL),
    "mpnet": ("MPNetModel", SMALL),
    "modernbert": ("ModernBertModel", {**SMALL, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt2": ("GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}),
    "gpt_neo": ("GPTNeoModel", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "vocab_size": 50}),
    "gpt_neox": ("GPTNeoXModel", SMALL),
    "opt": ("OPTModel", {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": ("BloomModel", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}),
    "t5_encoder": ("T5EncoderModel", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50}),
    "llama": ("LlamaModel", LLM),
    "mistral": ("MistralModel", LLM),
    "qwen2": ("Qwen2Model", LLM),
    "qwen3": ("Qwen3Model", {**LLM, "head_dim": 8}),
    "gemma": ("GemmaModel", {**LLM, "head_dim": 8}),
    "phi": ("PhiModel", LLM),
    "phi3": ("Phi3Model", LLM),
    "olmo": ("OlmoModel", LLM),
    "mamba": ("MambaModel", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 50}),
    "vit": ("ViTModel", VIT),
    "deit": ("DeiTModel", VIT),
    "dinov2": ("Dinov2Model", VIT),
    "beit": ("BeitModel", VIT),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_stages": 4}),
    "resnet": ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "mobilenet_v2": ("MobileNetV2Model", {}),
    "regnet": ("RegNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "groups_width": 4}),
    "segformer": ("SegformerModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}),
    "poolformer": ("PoolFormerModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "wav2vec2": ("Wav2Vec2Model", {**SMALL, "conv_dim": [16, 16], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}),
}  # fmt: skip
NAMES = [*TIMM, *(f"hf:{name}" for name in TRANSFORMERS)]


def timm_network(name: str) -> tuple[nn.Module, Any]:
    """At 64 x 64 where the network takes it, else at its own size."""
    import timm

    for size in (64, 128, None):
        given = {} if size is None else {"img_size": size}
        for form in (given, {}):
            try:
                model = timm.create_model(name, num_classes=10, **form).eval()
                side = size or model.default_cfg["input_size"][-1]
                x = torch.randn(1, 3, side, side)
                with torch.no_grad():
                    model(x)
            except Exception:  # whatever a network says to a size that it does not take
                continue
            return model, x
    raise ValueError(f"{name} takes no size")


def transformers_network(name: str) -> tuple[nn.Module, Any]:
    """Of two layers, with an example of eight words, an image or a signal."""
    import transformers

    wanted, settings = TRANSFORMERS[name]
    kind: Any = getattr(transformers, wanted)
    model = kind(kind.config_class(**settings)).eval()
    key = model.main_input_name
    example = {
        "pixel_values": lambda: torch.randn(1, 3, 32, 32),
        "input_values": lambda: torch.randn(1, 400),
    }.get(key, lambda: torch.arange(3, 11)[None])()
    cached = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return model, {key: example, **cached}


def network(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, and its example."""
    torch.manual_seed(0)
    build: Callable[[str], tuple[nn.Module, Any]]
    build = transformers_network if name.startswith("hf:") else timm_network
    return build(name.removeprefix("hf:"))


def row(name: str) -> tuple[str, str, str]:
    """(result, least share of the MACs, reason): an independent cut, other than the trace's own."""
    model, example = network(name)
    try:
        graph = trace(model, example)
    except DSAError as error:
        return "refused", "", str(error)
    cost = Cost.of(graph, "macs")
    stays = [r for r in graph.frozen if r != "network output"]
    reason = "; ".join(stays[:3]) + f" and {len(stays) - 3} more" * (len(stays) > 3)
    if not graph.prunable:
        return "nothing prunable", "1.00", reason
    floor = f"{cost.at(torch.ones_like(cost.sizes)) / cost.dense:.2f}"
    model.double()
    call = Call.of(example).map(lambda t: t.double() if t.is_floating_point() else t)
    randomise(model)
    found = compare(name, model, graph, call, random_channels(graph, 0.5, 3), files=False)
    return ("pass" if found.status == "ok" else f"WRONG: {found.reason}"), floor, reason


def main(words: list[str]) -> None:
    """Rows of the networks whose names hold a word; a table of all of them if none is given."""
    rows = []
    for name in NAMES:
        if not words or any(word in name for word in words):
            try:
                found = row(name)
            except Exception as error:  # is a result too
                found = (f"ERROR {type(error).__name__}", "", str(error))
            cells = (" ".join(part.split()).replace("|", "/")[:200] for part in found)
            rows.append(f"| {' | '.join([name, *cells])} |")
            print(rows[-1], flush=True)
    if not words:
        header = ["# Networks tried", "", str(__doc__).splitlines()[0], "",
                  "| network | result | least share of the MACs | what stays, beside the output |",
                  "| --- | --- | --- | --- |"]  # fmt: skip
        Path("data/records/networks.md").write_text("\n".join([*header, *rows, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
