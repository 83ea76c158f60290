// The runners of browser_inference.py, for Node.js and for browsers.
//
//   node browser_inference.mjs RUNNER ROOTS     answers to each line {"batch": n} with a line
//
// ROOTS is JSON: URLs of the npm packages (npm), of the exported files (files), and of
// stugan_tf/serving/web (web).

const inNode = typeof process !== "undefined";

async function bytes(url) {
  if (!inNode) return new Uint8Array(await (await fetch(url)).arrayBuffer());
  return new Uint8Array(await (await import("node:fs/promises")).readFile(new URL(url)));
}

// Numbers that look as if they were drawn from N(0, 1), the same in each runner.
function latents(count, size) {
  const uniform = (i) => { const x = Math.sin(i + 1) * 43758.5453; return x - Math.floor(x); };
  return Float32Array.from({length: count * size}, (_, i) =>
    Math.sqrt(-2 * Math.log(1 - uniform(2 * i))) * Math.cos(2 * Math.PI * uniform(2 * i + 1)));
}

const LATENT_DIM = 128, SIZE = 32 * 32 * 3;

// Each returns `draw(latents, count) -> Float32Array`.
const runners = {
  async ours({web, files}) {
    const script = new TextDecoder().decode(await bytes(`${web}/generator.js`));
    const Generator = new Function(`${script}\nreturn Generator;`)();
    const [module, file] = await Promise.all([
      bytes(`${web}/stugan.wasm`), bytes(`${files}/sparse_float32/generator.safetensors`),
    ]);
    const generator = await Generator.open(module, file);
    return (z, count) => {
      new Float32Array(generator.memory, generator.latents, z.length).set(z);
      generator.call("generate", generator.handle, BigInt(count), generator.latents, 0,
                     generator.images);
      return new Float32Array(generator.memory, generator.images, count * SIZE).slice();
    };
  },

  async onnxruntime_web({npm, files}) {
    const script = inNode ? "ort.node.min.mjs" : "ort.wasm.min.mjs";
    const ort = await import(`${npm}/onnxruntime-web/dist/${script}`);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = `${npm}/onnxruntime-web/dist/`;
    const session = await ort.InferenceSession.create(
      await bytes(`${files}/onnx_float32/generator.onnx`), {executionProviders: ["wasm"]});
    return async (z, count) => {
      const {images} = await session.run({latents: new ort.Tensor("float32", z, [count, LATENT_DIM])});
      return images.data;
    };
  },

  litert: (roots) => litert(roots, "float32"),
  litert_int8: (roots) => litert(roots, "int8"),
};

async function litert({npm, files}, precision) {
  const {loadLiteRt, loadAndCompile, Tensor} = await import(`${npm}/@litertjs/core/dist/index.js`);
  await loadLiteRt(`${npm}/@litertjs/core/wasm/`, {threads: false});
  const model = await loadAndCompile(
    await bytes(`${files}/tflite_${precision}/generator.tflite`), {accelerator: "wasm"});
  return async (z, count) => {
    const tensor = new Tensor(z, [count, LATENT_DIM]);
    const {images} = await model.signatures[`batch_${count}`].run({latents: tensor});
    tensor.delete();
    const found = new Float32Array(await images.data());
    images.delete();
    return found;
  };
}

// Opens a runner and draws its first image; returns `call({batch}) -> answer`.
export async function open(name, roots) {
  const draw = await runners[name](roots);
  const call = async ({batch}) => {
    const z = latents(batch, LATENT_DIM);
    const start = performance.now();
    const images = await draw(z, batch);
    const ms = performance.now() - start;
    if (images.length !== batch * SIZE) throw new Error(`${images.length} numbers`);
    return {ms, image: Array.from(images.slice(-SIZE))};
  };
  await call({batch: 1});
  return call;
}

if (inNode) {
  const [name, roots] = process.argv.slice(2);
  const call = await open(name, JSON.parse(roots));
  console.log("{}");
  const {createInterface} = await import("node:readline");
  for await (const line of createInterface({input: process.stdin})) {
    console.log(JSON.stringify(await call(JSON.parse(line))));
  }
}
