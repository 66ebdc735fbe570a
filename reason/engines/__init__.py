"""Engines: whatever answers requests, behind one small interface (`reason.engines.interface`).

`vllm` holds the model in this process, or in one process a group of GPUs; `server` asks any OpenAI-compatible endpoint;
`transformers` is the slow way that runs small models anywhere. `reason.engines.opening` opens them.
"""
