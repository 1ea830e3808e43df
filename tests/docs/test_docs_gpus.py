"""The launcher's lines and files of docs/gpus.md, read by accelerate itself; and what the processes then are told."""

import re
import shlex
import subprocess

import pytest
import typer
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.launch import prepare_multi_gpu_env
from pages import PAGES, blocks, files

from semu_diffusion import EraseConfig
from semu_diffusion.cli.app import make_app
from semu_diffusion.diffusion.processes import check_processes, wants_sharding

PAGE = PAGES["docs/gpus.md"]
FILES = files(PAGE)
LINES = [line for block in blocks(PAGE, "text") for line in block.splitlines()]
SLURM = FILES["two-nodes.slurm"]
# name -> (processes, machines, sharded)
CASES = {"one-gpu": (1, 1, False), "several-gpus": (4, 1, False), "fsdp2": (4, 1, True), "two-machines": (8, 2, False)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The page's files, on a machine with GPUs."""
    for name, contents in FILES.items():
        (tmp_path / name).write_text(contents)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(launch, "check_cuda_p2p_ib_support", lambda: True)
    return tmp_path


def launched(line: str):
    """What accelerate makes of a line: its arguments, with those of the file."""
    words = shlex.split(line.replace("$(command -v semu)", "semu"))
    assert words[:2] == ["accelerate", "launch"]
    args = launch.launch_command_parser().parse_args(words[2:])
    return launch._validate_launch_command(args)[0]


def test_every_file_has_a_line_and_every_line_a_file():
    assert {f"{name}.yaml" for name in CASES} | {"two-nodes.slurm"} == FILES.keys()
    named = [re.search(r"--config_file (\S+)", line)[1] for line in LINES]
    assert sorted({*named}) == sorted(f"{name}.yaml" for name in CASES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: re.sub(r".*config_file (\S+).yaml(.*?)\"\$.*", r"\1\2", line))
def test_accelerate_reads_the_lines(line, here, monkeypatch):
    name = re.search(r"--config_file (\S+)\.yaml", line)[1]
    args, (processes, machines, sharded) = launched(line), CASES[name]
    assert not load_config_from_file(f"{name}.yaml").use_cpu
    assert (args.num_processes, args.num_machines, bool(args.use_fsdp)) == (processes, machines, sharded)
    assert args.training_script == "semu" and bool(args.multi_gpu) == (processes > 1 and not sharded)
    command = typer.main.get_command(make_app()).commands["erase"]
    options = command.make_context("erase", list(args.training_script_args[1:])).params
    assert options["concept"] == ["cigarette"] and str(options["output"]) == "no-cigarette"
    if processes > 1:
        for key, value in prepare_multi_gpu_env(args).items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        assert wants_sharding() == sharded
        check_processes(EraseConfig("cigarette", batch_size=options["batch_size"]), None)  # nothing of it is refused


def test_the_two_machines_differ_in_their_rank(here):
    ranks = [launched(line).machine_rank for line in LINES if "two-machines" in line]
    assert ranks == [0, 1]


def test_the_slurm_script_is_a_script_and_its_line_is_accelerates(here):
    assert subprocess.run(["bash", "-n", "two-nodes.slurm"]).returncode == 0
    asked = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", SLURM, re.MULTILINE))
    assert asked["nodes"] == "2" and asked["ntasks-per-node"] == "1"
    line = re.search(r"^srun bash -c '(.*)'$", SLURM, re.MULTILINE)[1]
    spoken = f'export SLURM_NNODES=2 SLURM_NODEID=1 MAIN_IP=10.0.0.7; for word in {line}; do echo "$word"; done'
    words = subprocess.run(["bash", "-c", spoken], capture_output=True, text=True, check=True).stdout.splitlines()
    args = launched(shlex.join([word or "semu" for word in words]))
    assert (args.num_processes, args.num_machines, args.machine_rank) == (2 * int(asked["gpus-per-node"]), 2, 1)
    assert args.main_process_ip == "10.0.0.7" and args.training_script_args[0] == "erase"


def test_what_the_page_says_of_the_file_of_fsdp():
    found = yaml.safe_load(FILES["fsdp2.yaml"])["fsdp_config"]
    refused = {"fsdp_offload_params": True, "fsdp_activation_checkpointing": True, "fsdp_version": 1}
    assert all(found[key] != value for key, value in refused.items())
