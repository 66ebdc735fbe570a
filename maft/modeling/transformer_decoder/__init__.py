"""The masked-attention transformer decoder."""

from .masked_attention import DecoderOutput, MultiScaleMaskedTransformerDecoder

__all__ = ["DecoderOutput", "MultiScaleMaskedTransformerDecoder"]
