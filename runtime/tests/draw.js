// What draw.cc does, by the WebAssembly module in Node.js.
//
//   node draw.js GENERATOR_JS MODULE FILE NUM_IMAGES SEED TRUNCATION LABEL OUTPUT

const fs = require("fs");

const [script, module_, file, count, seed, truncation, label, output] = process.argv.slice(2);
const Generator = new Function(`${fs.readFileSync(script, "utf8")}\nreturn Generator;`)();

Generator.open(fs.readFileSync(module_), fs.readFileSync(file)).then((generator) => {
  const {latentDim, instructionSet} = generator.about;
  const {latents, labels} = generator.drawn(Number(seed), Number(truncation) || null, Number(count));
  if (label >= 0) labels.fill(Number(label));
  const images = [];
  for (let first = 0; first < count; first += Generator.MOST) {
    const last = Math.min(count, first + Generator.MOST);
    generator.generate(latents.slice(first * latentDim, last * latentDim), labels.slice(first, last));
    const size = (last - first) * generator.size;
    images.push(Buffer.from(generator.memory.slice(generator.images, generator.images + 4 * size)));
  }
  console.log(instructionSet);
  fs.writeFileSync(output, Buffer.concat(images));
}).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
