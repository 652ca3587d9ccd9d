// Generates TypeScript by graphql-codegen's client preset: node generate.mjs SCHEMA DOCUMENTS
// Prints one JSON object, by file: what it holds.
import { readFileSync } from "node:fs";
import { preset } from "@graphql-codegen/client-preset";
import { codegen } from "@graphql-codegen/core";
import { parse } from "graphql";

const [schema, rawSDL] = process.argv.slice(2).map((path) => readFileSync(path, "utf8"));

const sections = await preset.buildGeneratesSection({
  baseOutputDir: "generated/",
  schema: parse(schema),
  documents: [{ location: "documents.graphql", document: parse(rawSDL), rawSDL }],
  config: {
    namingConvention: "keep",
    strictScalars: true,
    scalars: { ByteSize: "number", DateTime: "string", EventCursor: "string", URL: "string" },
  },
  presetConfig: {},
  plugins: [],
  pluginMap: {},
});
const files = {};
for (const section of sections) files[section.filename] = await codegen(section);
console.log(JSON.stringify(files));
