"""The text of a saved network, with places for what differs from one to the next."""

FILE = '''\
"""{name}, {mark}. It takes torch and safetensors, and the files beside it:

{files}

    model, example = network()
"""

{imports}

FOLDER = Path(__file__).parent

# Parameters and buffers are in the state dict; constants are not. A tensor under two names is the same one.
TENSORS = {{
{table}
}}
{forms}

class {name}(nn.Module):
    """Its parameters and buffers are zero until a state dict is loaded."""

    def __init__(self):
        super().__init__()
        constants = {constants}
        made = {{}}
        for name, (kind, dtype, shape) in TENSORS.items():
            if dtype == "is":
                made[name] = made[shape]
            elif kind == "constant":
                made[name] = constants[name]
            else:
                made[name] = torch.zeros(shape, dtype=getattr(torch, dtype))
                if kind.endswith("parameter"):
                    made[name] = nn.Parameter(made[name], requires_grad=kind == "parameter")
            *parents, leaf = name.split(".")
            owner = self
            for parent in parents:
                if parent not in owner._modules:
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            if kind.endswith("parameter"):
                owner.register_parameter(leaf, made[name])
            else:
                owner.register_buffer(leaf, made[name], persistent=kind == "buffer")

{methods}

def network():
    """The model, in evaluation mode, with its weights; and the inputs that it was captured with."""
    model = {name}()
    weights = load_file(FOLDER / "network.safetensors")
    same = {{name: form for name, (kind, dtype, form) in TENSORS.items() if dtype == "is" and kind != "constant"}}
    model.load_state_dict(weights | {{name: weights[other] for name, other in same.items()}})
    return model.eval(), example()


def example():
    """What `forward` takes: a tuple of arguments, or a dict of arguments by name."""
{example}
'''
FORWARD = """\
def forward(self, {names}):
    outputs = self.flat({flat})
    return pytree.tree_unflatten(outputs, OUTPUTS)

"""
