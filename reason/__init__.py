"""Step-by-step visual reasoning: vocabularies, the triplets a multimodal model writes, and their files.

`reason.vocabulary`, `reason.triplets` and `reason.files` are what the segmentor shares; they import neither torch nor
an inference engine.
"""
