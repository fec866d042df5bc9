"""The files of examples/: they parse, and their commands and options exist."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.main import _parser
from sampling.options import add_arguments

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
KUBERAY = EXAMPLES / "kuberay-sample.yaml"
SLURM = EXAMPLES / "slurm-sample.sh"
DOCKERFILE = EXAMPLES / "Dockerfile.ray"
# A stand-in for srun: writes down what is to run where.
SRUN = """#!/bin/bash
command=$(printf '%s\\037' "$@")
printf '%s\\036' "$command" >> "$SRUN_LOG"
"""
SCONTROL = "#!/bin/bash\nprintf 'node1\\nnode2\\n'\n"


@pytest.fixture
def job():
    return yaml.safe_load(KUBERAY.read_text(encoding="utf-8"))


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def ray_version():
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "requirements-sample.txt").read_text(), re.M)
    return version


def test_the_kuberay_job_runs_a_command_that_exists(job):
    program, verb, *arguments = shlex.split(job["spec"]["entrypoint"])
    options = _parser(verb).parse_args(arguments)

    assert (job["apiVersion"], job["kind"], program) == ("ray.io/v1", "RayJob", "cogvideox")
    assert options.ray == "auto"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert options.workers == group["replicas"] + 1, "a worker per pod, the head's included"
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_kuberay_pods_are_alike_and_whole(job):
    spec = job["spec"]["rayClusterSpec"]
    containers = [container for pod in pods(job) for container in pod["containers"]]

    assert spec["authOptions"] == {"mode": "token"}
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["envFrom"] == [{"secretRef": {"name": "cogvideox-s3"}}]
    for pod in pods(job):
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_files_of_the_kuberay_command_are_mounted_in_the_head(job):
    head = next(pods(job))["containers"][0]
    places = {mount["mountPath"] for mount in head["volumeMounts"]}
    paths = re.findall(r" (/\S+)", job["spec"]["entrypoint"])

    assert paths
    assert {str(Path(path).parent) for path in paths} <= places


def test_ray_has_one_version(job):
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray_version()
    assert f"ray[default]=={ray_version()}" in DOCKERFILE.read_text()


def test_the_image_copies_what_is_there():
    copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE.read_text(), re.M)

    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()


def run_by_srun(tmp_path, *arguments):
    """The commands that the SLURM script runs on two nodes of four GPUs: without srun's options."""
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        stand_in = tmp_path / name
        stand_in.write_text(script)
        stand_in.chmod(0o755)
    log = tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": "/home/me",
        "SCRATCH": "/scratch/me",
        "SRUN_LOG": str(log),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "4",
    }
    # With its outputs captured, what it leaves in the background is waited for.
    subprocess.run(
        ["bash", str(SLURM), *arguments],
        env=environment,
        check=True,
        timeout=30,
        capture_output=True,
    )
    for command in log.read_text().split("\036")[:-1]:
        words = command.split("\037")[:-1]
        while words[0].startswith("--"):
            words.pop(0)
        yield words


def test_the_slurm_script_starts_torchrun(tmp_path):
    from torch.distributed.run import get_args_parser

    ((program, *arguments),) = run_by_srun(tmp_path)
    options = get_args_parser().parse_args(arguments)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    sampling = parser.parse_args(options.training_script_args)

    assert Path(program).name == "torchrun"
    assert (options.nnodes, options.nproc_per_node) == ("2", "4")
    assert options.rdzv_endpoint == "node1:29500"
    assert (options.module, options.training_script) == (True, "sampling")
    assert (sampling.prompts, sampling.out) == ("/home/me/prompts.txt", "/scratch/me/clips")


def test_the_slurm_script_starts_ray_on_all_nodes(tmp_path):
    commands = list(run_by_srun(tmp_path, "ray"))
    text = "\n".join(" ".join(words) for words in commands)
    ((verb, *arguments),) = [rest for program, *rest in commands if program.endswith("/cogvideox")]
    options = _parser(verb).parse_args(arguments)

    assert (options.ray, options.workers) == ("node1:6379", 8)
    assert "start --head --port=6379 --num-gpus=4 --block" in text
    assert "ray' start --address='node1:6379' --num-gpus=4 --block" in text


def test_ray_has_the_options_of_the_slurm_script():
    ray = Path(sys.executable).with_name("ray")
    shown = subprocess.run(
        [ray, "start", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    used = set(re.findall(r"--(?:head|port|address|num-gpus|block)\b", SLURM.read_text()))

    assert len(used) == 5
    for option in used:
        assert re.search(rf"^ +{option}\b", shown, re.M), option
