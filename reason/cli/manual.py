"""The manual page that `python -m reason --help` prints."""

MANUAL = """\
NAME
    python -m reason - what a multimodal model sees in images, and by which attributes it knows it

SYNOPSIS
    python -m reason image   --vocabulary V --images DIR --model DIR [options]
    python -m reason generic --vocabulary V --model DIR [options]
    python -m reason check   FILE [--vocabulary V]
    python -m reason status  [FOLDER ...]
    python -m reason score   --results DIR --labels DIR --vocabulary V
    python -m reason show    IMAGE ... --results DIR

DESCRIPTION
    For every image the model (a Qwen2.5-VL) describes what it shows, names the classes of the vocabulary that it sees,
    and says of each by which category, sub-category and visual attributes it is known. Without an image it says the
    same of every class in general. The segmentor reads the files; the model is not needed any more then.

COMMANDS
    image     one file of reasons for every image of a folder
    generic   one file of reasons for all classes of a vocabulary
    check     what is wrong in a file of reasons, of any origin: format, rules, classes that are missing
    status    what is done, failed and left in folders of results, at which rate, by whom; how many name no class
    score     which classes of the label maps the model found: recall and precision of its candidates
    show      the reasons beside their image, as an HTML page

    python -m reason COMMAND --help lists the options of each.

EXAMPLES
    The reasons of PC-59 with the model of the paper, on one GPU of 80 GB, or one copy on each of four:

        bash install.sh reason
        bash tools/fetch_llm.sh Qwen2.5-VL-72B-Instruct-AWQ
        .venv-reason/bin/python -m reason generic --vocabulary pc59 --model llm/Qwen2.5-VL-72B-Instruct-AWQ
        .venv-reason/bin/python -m reason image --vocabulary pc59 --images datasets/VOCdevkit/VOC2010/images \\
            --labels datasets/VOCdevkit/VOC2010/annotations_detectron2_ovs/pc59_val \\
            --model llm/Qwen2.5-VL-72B-Instruct-AWQ --data-parallel 4

    Your own photos and classes, with a small model:

        .venv-reason/bin/python -m reason image --vocabulary "cat, dog, sofa" --images photos \\
            --model llm/Qwen2.5-VL-3B-Instruct --output out/reasons
        .venv-reason/bin/python -m reason show photos --results out/reasons
        .venv/bin/python -m tools.segment photos --vocabulary out/reasons/.reason/vocabulary.json \\
            --image-reasons out/reasons

    A server on another machine (vllm serve, or any OpenAI-compatible endpoint):

        .venv-reason/bin/python -m reason image --vocabulary pc59 --images DIR --engine server \\
            --url http://gpu1:8000/v1 --model Qwen2.5-VL-72B-Instruct-AWQ

    Three machines that share a folder, without Ray: the same command on each, or a part of the images for each:

        .venv-reason/bin/python -m reason image ... --shard 1/3

CONTINUING
    Every result is on disk as soon as it is finished. The same command continues after whatever ended the last one,
    and does nothing twice; any number of processes may work on one folder. Images that failed (no usable answer in
    all attempts, or a file that is no image) are listed at the end and left alone until --retry-failed is given.
    A server has 15 minutes for a whole answer; an answer that is not whole then, or breaks off while the server is
    there, is asked for again, four times in all. A server that is silent for 40 seconds ends the run.
    Results of other settings (prompts, model, vocabulary, sampling ...) are never mixed in unnoticed: the command says
    what changed and stops; with --resume it does them again, and each old file stays until its replacement is ready.

FILES
    reason_data/image_reason/<model>/<vocabulary>/<image>.json     reasons of an image (default of image --output)
    reason_data/general_reason/<vocabulary>_class_reason.json      reasons of all classes (default of generic --output)
    .reason/ beside them: provenance.json, vocabulary.json, failed/ (why, with all answers), workers/, claims/
    datasets/vocabularies/*.json                                   vocabularies that are known by name
    reason_data/README.md                                          the formats

EXIT STATUS
    0    all is done
    1    some images or classes failed, or check found something; they are listed
    2    something is wrong with what was given, or no space is left
    3    the engine is gone; the same command continues
    130  interrupted (143: terminated); the same command continues

ENVIRONMENT
    OPENAI_API_KEY        key of --engine server (another variable: --api-key-env)
    CUDA_VISIBLE_DEVICES  which GPUs are used
    HF_HUB_OFFLINE=1      look nothing up in the network
"""
