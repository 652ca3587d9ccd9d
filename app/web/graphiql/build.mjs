// Puts the GraphiQL page together: `node build.mjs OUTPUT` after `npm ci --ignore-scripts`.
//
// GraphiQL 5 is the line that is maintained, and its editor knows the schema, completes, and checks variables.
// It comes as modules with web workers, so it needs a bundler; esbuild is one program and takes two seconds.
// GraphiQL 4, the last with a file ready to serve, gets no more fixes. Everything is served by the gateway itself:
// no content delivery network, so that the page works without internet and nobody else learns who opened it.

import { copyFile } from "node:fs/promises";
import { join } from "node:path";

import { build } from "esbuild";

const [output] = process.argv.slice(2);
if (!output) {
  console.error("usage: node build.mjs OUTPUT");
  process.exit(2);
}

const shared = {
  bundle: true,
  minify: true,
  outdir: output,
  target: "es2022",
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "linked",
  logLevel: "warning",
};

// The page asks for modules in pieces: GraphiQL comes once somebody is signed in, and what only "prettify" needs when
// they prettify.
await build({
  ...shared,
  entryPoints: { page: "page.js" },
  format: "esm",
  splitting: true,
  loader: { ".ttf": "file", ".graphql": "text" },
});

await build({
  ...shared,
  entryPoints: {
    "editor.worker": "monaco-editor/esm/vs/editor/editor.worker.js",
    "json.worker": "monaco-editor/esm/vs/language/json/json.worker.js",
    "graphql.worker": "monaco-graphql/esm/graphql.worker.js",
  },
  format: "iife",
});

await copyFile("icon.svg", join(output, "icon.svg"));
