/* The other side of the row wasm_infer_224_b1 of bench/peers.py: ONNX Runtime's own WebAssembly,
   with SIMD, on one thread, under node. Answers lines on stdin as bench/theirs.py does:

       infer MODEL.onnx IMAGE SIZE ROUNDS     batch 1; IMAGE: SIZE x SIZE x 3 floats

   node theirs.mjs FOLDER, where `npm install onnxruntime-web` was run in FOLDER. */
import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const dist = path.resolve(process.argv[2], "node_modules/onnxruntime-web/dist");
const ort = await import(pathToFileURL(path.join(dist, "ort.node.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = pathToFileURL(dist).href + "/";

let session = null, input = null;

async function infer(model, image, size, rounds) {
    if (session === null) {
        session = await ort.InferenceSession.create(fs.readFileSync(model), {
            executionProviders: ["wasm"], graphOptimizationLevel: "all" });
        const bytes = fs.readFileSync(image), plane = size * size;
        const hwc = new Float32Array(bytes.buffer, bytes.byteOffset, 3 * plane);
        const chw = hwc.map((_, i) => hwc[i % plane * 3 + Math.floor(i / plane)]);
        input = new ort.Tensor("float32", chw, [1, 3, size, size]);
    }
    const seconds = [];
    let out;
    for (let i = 0; i < rounds; i++) {
        const start = performance.now();
        out = await session.run({ x: input });
        seconds.push((performance.now() - start) / 1e3);
    }
    return { text: ort.env.versions.web, seconds, values: [Object.values(out)[0].data[1]] };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, ...word] = line.trim().split(/\s+/);
    if (name === "") continue;
    let answer;
    try {
        if (name !== "infer") throw new Error("no such command");
        answer = await infer(word[0], word[1], Number(word[2]), Number(word[3]));
    } catch (e) {
        answer = { error: String(e).slice(0, 300) };
    }
    console.log(JSON.stringify(answer));
}
