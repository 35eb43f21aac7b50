#!/bin/sh
# weights_tool.sh BUILD: qnet_weights and crossval --weights with .pth files, without Python.
bin=$1
dir=$1/weights-test
tool=$bin/qnet_weights
. tests/shell.sh

says() # exit status, part of what it must print, command...
{
    want=$1 part=$2
    shift 2
    "$@" > "$dir/log" 2>&1
    status=$?
    if [ $status = "$want" ] && grep -q -F -e "$part" "$dir/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$*: exit $status, expected $want and \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
}

# A run on one cohort makes the weights that a run on another starts from.
small='--input crop --size 32 --folds 2 --epochs1 1 --epochs2 1 --batch 16 --bootstrap 20 --seed 7 --threads 1 --quiet'
ok "cohort" "$bin/make_phantom" --out "$dir/a" --hh 2 --hc 3 --scale small --seed 3
ok "another cohort" "$bin/make_phantom" --out "$dir/b" --hh 2 --hc 2 --scale small --seed 4
"$bin/crossval" --data "$dir/a" --out "$dir/first" $small > "$dir/log" 2>&1 &
pid=$!
resnet=$dir/first/checkpoint/weights/crop-repeat01-fold01-resnet.safetensors
while kill -0 $pid 2> /dev/null && [ ! -f "$resnet" ]; do sleep 0.05; done
kill -KILL $pid 2> /dev/null # its first weights are all that is needed
wait $pid 2> /dev/null
qnet=$dir/st/weights/crop-repeat01-fold01-qnet.safetensors

# There and back: the same bytes, metadata included; stage 1 and stage 2.
there_and_back() # model, file
{
    ok "$1 to .pth" "$tool" convert "$2" "$dir/$1.pth"
    ok "$1 back" "$tool" convert "$dir/$1.pth" "$dir/$1.safetensors"
    ok "$1 is the same" cmp "$2" "$dir/$1.safetensors"
    ok "$1 compares equal" "$tool" compare "$2" "$dir/$1.pth"
    ok "$1 has one hash" sh -c "[ \"\$('$tool' hash '$2')\" = \"\$('$tool' hash '$dir/$1.pth')\" ]"
}
there_and_back resnet "$resnet"
says 0 'conv1.weight                         F32  [64,3,7,7]' "$tool" list "$dir/resnet.pth"
says 0 'as initial_weights in a manifest.json' "$tool" hash "$dir/resnet.pth"
says 0 '11 tensors, 63 numbers' "$tool" list tests/golden/legacy.pth
ok "zip and legacy form" "$tool" compare tests/golden/zip.pth tests/golden/legacy.pth

# Heads.
says 0 'replaced by a fresh one of 1000' "$tool" convert "$dir/resnet.pth" "$dir/k.pth" --classes 1000
ok "1000 classes" "$tool" convert "$dir/k.pth" "$dir/k.safetensors"
says 0 'replaced by a fresh one of 2' "$tool" convert "$dir/k.pth" "$dir/two.safetensors" --classes 2
ok "2 classes again" "$tool" convert "$dir/k.safetensors" "$dir/again.safetensors" --classes 2 --seed 1
ok "the same seed, the same head" cmp "$dir/two.safetensors" "$dir/again.safetensors"
ok "another seed" "$tool" convert "$dir/k.pth" "$dir/other.safetensors" --classes 2 --seed 2
says 1 '122 tensors, 2 differ' "$tool" compare "$dir/two.safetensors" "$dir/other.safetensors"
says 1 'fc.weight                            [1000,512] but [2,512]' "$tool" compare "$dir/k.pth" "$dir/two.safetensors"
ok "a large tolerance" "$tool" compare tests/golden/zip.pth tests/golden/zip.pth --tolerance 10

# Names as DataParallel writes them, and a tensor of a type that nobody reads.
edited() # in, out, sed script for the header
{
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    head -c $((n + 8)) "$1" | tail -c "$n" | sed "$3" > "$dir/header"
    m=$(wc -c < "$dir/header")
    printf "$(printf '\\%03o\\%03o\\%03o' $((m % 256)) $((m / 256 % 256)) $((m / 65536)))\\0\\0\\0\\0\\0" > "$2"
    cat "$dir/header" >> "$2"
    tail -c +$((n + 9)) "$1" >> "$2"
}
edited "$resnet" "$dir/module.safetensors" 's/"\([a-z0-9_.]*\)":{"dtype"/"module.\1":{"dtype"/g'
edited "$resnet" "$dir/strange.safetensors" 's/"fc.weight":{"dtype":"F32"/"fc.weight":{"dtype":"X32"/g'
says 0 "all names begin with 'module.'" "$tool" compare "$dir/module.safetensors" "$resnet"
ok "without the prefix" "$tool" convert "$dir/module.safetensors" "$dir/stripped.safetensors"
ok "it is the same" cmp "$resnet" "$dir/stripped.safetensors"
says 1 'trained on subjects of this cohort' "$bin/crossval" --data "$dir/a" --out "$dir/no" $small --weights "$dir/module.safetensors"
says 2 "tensor 'fc.weight': dtype X32: expected a type from F64" "$tool" list "$dir/strange.safetensors"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46\n' > "$dir/lfs.pth"
says 2 'lfs.pth: not downloaded: git annex get / datalad get / git lfs pull' "$tool" list "$dir/lfs.pth"

# Both formats start the same run; one is killed and resumed.
ok "from .safetensors" "$bin/crossval" --data "$dir/b" --out "$dir/st" $small --weights "$dir/k.safetensors"
"$bin/crossval" --data "$dir/b" --out "$dir/pth" $small --checkpoint-seconds 0 --weights "$dir/k.pth" > "$dir/log" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -f "$dir/pth/checkpoint/crop-repeat01-fold01-resnet.checkpoint" ]; do sleep 0.05; done
kill -KILL $pid 2> /dev/null
wait $pid 2> /dev/null
ok "a checkpoint is there" cp "$dir/pth/checkpoint/crop-repeat01-fold01-resnet.checkpoint" "$dir/resnet.checkpoint"
says 1 'the run to resume has "weights=' "$bin/crossval" --data "$dir/b" --out "$dir/pth" $small --weights "$dir/two.safetensors" --resume
ok "from .pth, resumed" "$bin/crossval" --data "$dir/b" --out "$dir/pth" $small --weights "$dir/k.pth" --resume
ok "same predictions" cmp "$dir/st/predictions.csv" "$dir/pth/predictions.csv"
ok "same weights" cmp "$dir/st/weights/crop-repeat01-fold02-qnet.safetensors" "$dir/pth/weights/crop-repeat01-fold02-qnet.safetensors"
there_and_back qnet "$qnet"
says 0 'metadata model = qnet' "$tool" list "$dir/qnet.pth"
ok "Q-Net names its embedding" sh -c "'$tool' list '$dir/qnet.pth' | grep -q \"embedding_hash = \$('$tool' hash \
    '$dir/st/weights/crop-repeat01-fold01-resnetswa.safetensors' | head -n 1 | cut -c 1-16)\""
says 0 'scan_head.weight                     F32  [2,12288]' "$tool" list "$dir/qnet.pth"
says 0 'weights of its last epoch' "$tool" convert "$dir/resnet.checkpoint" "$dir/c.pth"
says 0 'layer4.1.conv2.weight                F32  [512,512,3,3]' "$tool" list "$dir/c.pth"

# Bad input.
says 1 "qnet.pth: not weights of resnet18: tensor 'lstm.weight_ih_l0' is not one of its" "$bin/crossval" --data "$dir/b" --out "$dir/no" $small --weights "$dir/qnet.pth"
says 1 'trained on subjects of this cohort' "$bin/crossval" --data "$dir/a" --out "$dir/no" $small --weights "$dir/resnet.pth"
head -c 1000000 "$dir/resnet.pth" > "$dir/cut.pth"
says 1 'cut.pth: no end record of a zip archive' "$bin/crossval" --data "$dir/b" --out "$dir/no" $small --weights "$dir/cut.pth"
says 1 'none.pth' "$bin/crossval" --data "$dir/b" --out "$dir/no" $small --weights "$dir/none.pth"
ok "a failed start leaves no folder" test ! -e "$dir/no"
says 2 'cut.pth: no end record' "$tool" convert "$dir/cut.pth" "$dir/no.safetensors"
says 2 'and no ResNet18 without one' "$tool" convert "$dir/qnet.pth" "$dir/no.safetensors" --classes 2
ok "nothing half written" test ! -e "$dir/no.safetensors"
says 2 'ends in .safetensors, .pth or .pt' "$tool" convert "$dir/qnet.pth" "$dir/no.txt"
says 2 'not expected here' "$tool" list "$dir/qnet.pth" "$dir/qnet.pth"
says 2 "a file's name is missing" "$tool" compare "$dir/qnet.pth"
says 2 'expected convert, list' "$tool" run
says 2 'from 1 to' "$tool" convert "$dir/qnet.pth" x.pth --classes 0
says 0 'usage: qnet_weights convert' "$tool" --help
rm -rf "$dir"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
