"""Networks of timm and transformers are cut rightly: a part of the records' networks.md."""

import pytest
import zoo

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
FEW = """hf:bert hf:gpt2 hf:llama hf:t5_encoder hf:resnet hf:regnet hf:mobilebert hf:segformer
dla46_c efficientnet_b0 ghostnet_050 regnetx_002 vit_tiny_patch16_224 mobilenetv3_small_050"""
HEADS = ("hf:bert", "hf:gpt2", "hf:llama", "hf:t5_encoder", "vit_tiny_patch16_224")


@pytest.mark.parametrize("name", FEW.split())
def test_a_stranger_is_cut_rightly(name: str) -> None:
    result, floor, _ = zoo.row(name)
    assert result == "pass"
    assert float(floor) < (0.2 if name in HEADS else 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({f"hf:{n}" for n in zoo.TRANSFORMERS} - {*FEW.split()}))
def test_every_other_small_transformer_is_cut_rightly_or_has_nothing_to_cut(name: str) -> None:
    assert zoo.row(name)[0] in ("pass", "nothing prunable")
