"""The app of `flwr new` for PyTorch without data and training: stock FedAvg, train and evaluate in each round."""

from pathlib import Path

import tomli_w

__all__ = ["write_app"]

MODELS = {
    "plain": """
def build():
    layers = [nn.Linear(a, b) for a, b in ((512, 1024), (1024, 1024), (1024, 1024), (1024, 700), (700, 2))]
    return nn.Sequential(*layers)
""",
    "backbone": """
import timm
def build():
    return timm.create_model("tf_efficientnet_lite0", num_classes=0)
""",
}
TASK = """
import torch
from torch import nn
"""
CLIENT = """
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from quickstart.task import build

app = ClientApp()

@app.train()
def train(msg: Message, context: Context):
    model = build()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.001 * (1 + context.node_config["partition-id"]))
    metrics = MetricRecord({"train_loss": 0.5, "num-examples": 8})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=msg)

@app.evaluate()
def evaluate(msg: Message, context: Context):
    model = build()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"eval_loss": 0.5, "eval_acc": 0.5, "num-examples": 8})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
"""
SERVER = """
import json
import time
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from quickstart.task import build

app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    arrays = ArrayRecord(build().state_dict())
    def note(number, arrays):
        with open(context.run_config["notes"], "a") as file:
            line = {"round": number, "at": time.monotonic(), "bytes": arrays.count_bytes(), "tensors": len(arrays)}
            file.write(json.dumps(line) + "\\n")
    FedAvg().start(grid, arrays, num_rounds=context.run_config["rounds"], evaluate_fn=note)
"""


def write_app(app: Path, model: str, notes: Path, rounds: int) -> None:
    """Write its folder `app`, and beside it the settings of a run that notes each round in `notes`."""
    package = app / "quickstart"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""The quickstart app."""\n')
    (package / "task.py").write_text(TASK + MODELS[model])
    (package / "client_app.py").write_text(CLIENT)
    (package / "server_app.py").write_text(SERVER)
    components = {"serverapp": "quickstart.server_app:app", "clientapp": "quickstart.client_app:app"}
    flwr = {"publisher": "benchmark", "components": components, "config": {"rounds": 3, "notes": ""}}
    flwr["fab-include"] = ["quickstart/*.py"]
    project = {"name": "quickstart", "version": "1.0.0", "license": "Apache-2.0", "dependencies": []}
    (app / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flwr}}}))
    (app.parent / "settings.toml").write_text(tomli_w.dumps({"rounds": rounds, "notes": str(notes)}))
