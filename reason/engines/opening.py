"""Opening an engine: checked first, then loaded; its module is imported only when it is the one."""

from __future__ import annotations

from reason.engines.checks import check_engine
from reason.engines.interface import ENGINES, Engine, EngineInfo, EngineKind, EngineOptions
from reason.engines.model_folder import model_hash, read_model_folder
from reason.errors import ReasonError


def open_engine(kind: EngineKind, options: EngineOptions) -> Engine:
    """Check what can be checked beforehand (`reason.engines.checks`), then load the model or reach the server.

    Raises:
        ReasonError: it cannot work so; says why and what would.
    """
    check_engine(kind, options)
    if kind == "server":
        from reason.engines.server import ServerEngine

        return ServerEngine(options)
    if options.data_parallel > 1:
        from reason.engines.replicas import ReplicatedEngine

        return ReplicatedEngine(open_engine, kind, options)
    if kind == "vllm":
        from reason.engines.vllm import VllmEngine

        return VllmEngine(options)
    if kind == "transformers":
        from reason.engines.transformers import TransformersEngine

        return TransformersEngine(options)
    raise ReasonError(f"{kind}: no such engine; choose from {', '.join(ENGINES)}")


def model_info(kind: EngineKind, options: EngineOptions) -> EngineInfo:
    """What can be said of a model in a folder before an engine has loaded it.

    Raises:
        ReasonError: the engine could not work so (`reason.engines.checks`).
    """
    check_engine(kind, options)
    folder = read_model_folder(options.model)
    return EngineInfo(kind, "", folder.path.name, model_hash(folder))
