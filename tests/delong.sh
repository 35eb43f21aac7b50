#!/bin/sh
# delong.sh BUILD: the program delong, its figures against R's pROC 1.18 and p.adjust, its sentences and exit codes.
bin=$1
dir=$1/delong-test
. tests/shell.sh

says() # exit status, part of what it must print, options of delong...
{
    want=$1 part=$2
    shift 2
    "$bin/delong" "$@" > "$dir/log" 2>&1
    status=$?
    if [ $status = "$want" ] && grep -q -e "$part" "$dir/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "delong $*: exit $status, expected $want and \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
}

# roc(y, s, direction = "<"), sqrt(var()), ci.auc(), roc.test(method = "delong"), p.adjust(p, "holm")
cat > "$dir/four.csv" <<'DATA'
group,a,b,c,d
HH,1.8,1.5,-0.6,-1.3
HH,1.1,2,1.6,-0.8
HH,2.5,1,-0.8,0.2
HH,2.2,0.1,2.6,0.6
HH,3.2,3.1,0.6,0.7
HH,2.3,1.3,0.3,0
HH,0.3,0.3,0.1,2.3
HH,1.4,2.1,1.4,-0.6
HH,3.5,1.9,1,1
HH,3.4,1.7,0.3,-0.3
HH,2.2,3,0.7,0.7
HH,1.6,1.4,0,-0.1
HH,2,2.8,-0.5,-0.4
HH,1.6,-0.4,0.7,-0.1
HC,0,-0.8,0.7,0
HC,0.2,-0.7,-0.4,-1.7
HC,1.2,0.8,0.2,1.6
HC,0,-0.4,-0.7,0.8
HC,-0.1,0.7,-0.8,-1.1
HC,-0.3,-2,-0.1,-1.7
HC,1.5,0.2,1.3,0.4
HC,0.2,-0.5,-0.2,0.7
HC,1.3,0.7,-0.6,0.9
HC,1.3,1.2,-1.5,0.3
HC,0.6,2.3,-1,-0.1
HC,-0.3,-0.8,-1.3,0.4
HC,1.3,0.2,-0.8,-0.8
HC,0.9,1.2,-1.1,-0.6
HC,-0.9,-0.7,0.4,1.7
HC,1.2,2.1,-0.2,-0.7
DATA
says 0 '^30 rows, 14 of them positive$' "$dir/four.csv"
for row in 'a  *0.9330  0.0467  0.8415 to 1.0000' 'b  *0.8080  0.0818  0.6477 to 0.9683' \
    'c  *0.7879  0.0840  0.6233 to 0.9526' 'd  *0.5156  0.1101  0.2999 to 0.7313' \
    ' 0.1250  .*   1.519    0.1288    0.3864  a - b' ' 0.1451  .*   1.474    0.1405    0.3864  a - c' \
    ' 0.4174  .*   3.381    0.0007    0.0043  a - d' ' 0.0201  .*   0.155    0.8769    0.8769  b - c' \
    ' 0.2924  .*   1.942    0.0522    0.2087  b - d' ' 0.2723  .*   2.280    0.0226    0.1129  c - d'; do
    says 0 "^ *$row$" "$dir/four.csv"
done
cp "$dir/log" "$dir/whole"
tr , '\t' < "$dir/four.csv" | sed 's/$/\r/' > "$dir/four.tsv"
ok "tabs and CRLF: the same" sh -c "'$bin/delong' '$dir/four.tsv' | cmp - '$dir/whole'"
sed '1d; s/HH/1/; s/HC/0/' "$dir/four.csv" > "$dir/bare.csv"
says 0 ' 0.4174  .*   3.381    0.0007    0.0007  2 - 5$' --score 2,5 "$dir/bare.csv"
{ cat "$dir/four.csv"; echo HH,NA,1,1,1; echo HC,1,,1,1; } > "$dir/holes.csv"
says 0 '^30 rows, 14 of them positive; 2 left out, as a value is missing$' --missing skip "$dir/holes.csv"
says 1 'holes.csv: line 32: column a: no value' "$dir/holes.csv"
says 0 ' 0.0526    0.0526  score1 - score2$' # the built-in example

# Wrong before, and silent: a field that is not there, a first row that cannot be read, more than the row.
printf 'label,a,b\n1,0.9,0.6\n0,0.2,\n1,0.9,0.6\n0,.1,.2\n' > "$dir/empty.csv"
says 1 'empty.csv: line 3: column b: no value (.*); the line is "0,0.2,"$' "$dir/empty.csv"
printf '1,NA,.6\n1,.9,.6\n0,.2,.3\n0,.1,.2\n1,.8,.7\n' > "$dir/first.csv"
says 1 'first.csv: line 1: column 2: no value' "$dir/first.csv"
printf 'label,a,b\n1,.9,.6x\n1,.8,.7\n0,.2,.3\n0,.1,.2\n' > "$dir/junk.csv"
says 1 'junk.csv: line 2: column b: expected a number .*".6x"' "$dir/junk.csv"
printf 'label,a,b\n1,.9,.6,.5\n1,.8,.7,.5\n0,.2,.3,.5\n0,.1,.2,.5\n' > "$dir/more.csv"
says 1 'more.csv: line 2: expected 3 fields as in the first line, found 4' "$dir/more.csv"
printf 'label,a\n1,.9\n1,.8\n0,.2\n0,.1\n' > "$dir/perfect.csv"
says 0 '^a  *1.0000  0.0000  1.0000 to 1.0000  (!)$' "$dir/perfect.csv"
says 0 '^(!) The classes do not overlap' "$dir/perfect.csv"
says 0 '^Fewer than 10 rows in a class' "$dir/perfect.csv"
printf 'label,a\n1,.9\n1,.8\n' > "$dir/one.csv"
says 1 'both classes' "$dir/one.csv"
says 1 'nofile.csv: no such file' "$dir/nofile.csv"
says 0 '^usage: delong' --help
[ -c /dev/full ] && ok "a full disk is an error" sh -c "! '$bin/delong' > /dev/full"
for wrong in --nonsense --label '--missing maybe' '--where level' 'one.csv two.csv' '--label a --label b'; do
    says 2 'see --help' $wrong
done

# predictions.csv as crossval writes it: the figures of its results.json. crossval.sh leaves such a run.
run=$bin/crossval-test/one
if [ ! -s "$run/results.json" ]; then
    run=$dir/run
    ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 4 --hc 4 --scale small --seed 3
    ok crossval "$bin/crossval" --data "$dir/cohort" --out "$run" --input crop --size 32 --folds 2 --epochs1 1 \
        --epochs2 1 --batch 64 --max-slices 4 --bootstrap 2 --seed 7 --quiet
fi
crop='--where input=crop'
first() # name, which one, decimals (4): a number of results.json
{
    sed -n "s/^ *\"$1\": \[*\([-0-9.e]*\)[],].*/\1/p" "$run/results.json" | sed -n "$2p" | LC_ALL=C xargs printf "%.${3:-4}f"
}
says 1 'line [0-9]*: level is "scan" here and "image" above: choose, as with --where level=scan' $crop "$run/predictions.csv"
says 0 'Slices of a subject are not independent' --where level=image $crop "$run/predictions.csv"
says 0 "^p_qnet  *$(first auc 1)  .*  $(first auc_delong95 1) to " --where level=image $crop "$run/predictions.csv"
# z: with so few subjects there is no p there; of the other model less the first.
says 0 " -*$(first z 1 3 | tr -d -)  .*  p_resnet - p_resnetswa" --where level=image $crop "$run/predictions.csv"
says 0 "^p_qnet  *$(first auc 1)  .*  $(first auc_delong95_by_subject 1) to " --where level=image $crop --cluster subject \
    "$run/predictions.csv"
says 0 " -*$(first z 2 3 | tr -d -)  .*  p_resnet - p_resnetswa" --where level=image $crop --cluster subject "$run/predictions.csv"
says 0 '^8 rows, 4 of them positive; [0-9]* left out by --where$' --where level=scan $crop "$run/predictions.csv"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
