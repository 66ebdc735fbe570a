"""OpenSeg-R: open-vocabulary segmentation with step-by-step visual reasoning (MAFT+ segmentor)."""
