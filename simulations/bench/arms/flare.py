"""The job as an NVFlare recipe in NVFlare's simulator: run by the Python of an environment that has it.

    BENCH_JOB=JOB_FOLDER PYTHON -m simulations.bench.arms.flare

Clients are the threads and processes that the simulator makes by default, in-process execution of the script.
"""

import os
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Play the job."""
    import torch
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe import SimEnv

    from simulations.bench.plain import Net, initial_weights_of, read_job

    folder, start = Path(os.environ["BENCH_JOB"]), Path.cwd() / "start.pt"
    job = read_job(folder)
    net = Net(job)
    net.load_state_dict(initial_weights_of(folder), strict=False)
    torch.save(net.state_dict(), start)
    sites = list(job["sites"])
    network = {"job": {"backbone": job["backbone"], "size": job["size"]}}
    recipe = FedAvgRecipe(
        name="bench",
        model={"class_path": "simulations.bench.plain.Net", "args": network},
        initial_ckpt=str(start),
        min_clients=len(sites),
        num_rounds=job["rounds"],
        train_script=str(Path(__file__).with_name("flare_client.py")),
    )
    run = recipe.execute(SimEnv(num_clients=len(sites), workspace_root=str(Path.cwd() / "workspace")))
    if str(run.get_status()) not in {"None", "FINISHED:COMPLETED"} or not run.get_result():
        raise SystemExit(f"NVFlare ended as {run.get_status()}")


if __name__ == "__main__":
    main()
