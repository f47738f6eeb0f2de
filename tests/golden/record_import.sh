#!/usr/bin/env bash
# Records tests/golden/import: adapters that PEFT, torch and pyreft wrote for the quickstart's model,
# and the logits that they compute with them.
#   record_import.sh TRIMTAB PYTHON OLD_PYTHON
# PYTHON has tests/pypi/base.requirements.txt, OLD_PYTHON pyreft.requirements.txt and pyreft.alone.txt.
set -eu
trimtab=$(realpath "$1") python=$2 old=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$root/tests/golden/import model=$root/jobs/quickstart/model
rm -rf "$out" && mkdir "$out" && cd "$out"
echo '{"Source": "[MAX 2 9 [MIN 4 7 ] 0 ]", "Target": "9"}' >data.jsonl
cat >job.cfg <<END
model: { path = "$model"; };
task: { file = "$root/configs/tasks/listops.cfg"; eval = "data.jsonl"; };
END
"$trimtab" eval job.cfg --quiet --set eval.generate=false --dump-logits frozen.st >/dev/null
cat >things <<END
make-peft peft {"r": 3, "lora_alpha": 5, "use_rslora": true, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 3]}
make-peft dora {"r": 2, "use_dora": true, "target_modules": ["v_proj"], "layers_to_transform": [5], "as_torch": true}
make-steerling steerling alone
make-joint joint
record peft.st peft frozen.st peft
record dora.st peft frozen.st dora
record steerling.st steerling frozen.st steerling relu
record joint.st joint frozen.st joint silu
END
"$python" "$root/tests/pypi/agree.py" "$model" things
cat >things <<END
make-pyreft pyreft 2
record pyreft.st pyreft frozen.st pyreft 2 1 apart
END
"$old" "$root/tests/pypi/agree.py" "$model" things
sed -i "s|$model|quickstart|" ./*/adapter_config.json
chmod a+r ./* ./*/*
rm -rf things job.cfg frozen.st joint.tmp ./*/README.md
