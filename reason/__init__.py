"""Step-by-step visual reasoning: vocabularies, the triplets a multimodal model writes, and their files.

`reason.vocabulary` and `reason.triplets` are the two modules that the segmentor shares; they import neither torch nor
an inference engine.
"""
