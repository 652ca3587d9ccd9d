// Lints a schema by @graphql-eslint: node lint.mjs SCHEMA
// Prints what it finds as one JSON array of {rule, line, message}.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { Linter } from "eslint";
import plugin from "@graphql-eslint/eslint-plugin";

const [path] = process.argv.slice(2);
const { configs, parser } = plugin;

// What has no id, because it is never read by itself.
const WITHOUT_ID = {
  // The parts of an answer.
  suffixes: ["Payload", "Edge", "Connection", "Error"],
  types: [
    "PageInfo",
    // Values of the object that they are a field of.
    "BootCheck",
    "BootPart",
    "BootReadiness",
    "ByteQuota",
    "CopySource",
    "CountQuota",
    "Header",
    "ImageFailure",
    "ImagePermissions",
    "ImageProgress",
    "Label",
    "Money",
    "OperatingSystem",
    "ProjectQuota",
    "ServerConsole",
    "ServerFailure",
    "ServerSource",
    "SignedRequest",
    "SnapshotSource",
    "StorageUsage",
    "UploadSource",
    "VolumeSource",
    // Values that a connection lists: the subject, the number and the image tell them apart.
    "ImageUsage",
    "ProjectMember",
    "UploadPart",
    // Items of the feed: the cursor tells them apart.
    "ImageCreated",
    "ImageDeleted",
    "ImageProgressed",
    "ImageShareChanged",
    "ImageStatusChanged",
    "ImageUpdated",
    "ResyncRequired",
    "ServerCreated",
    "ServerDeleted",
    "ServerStatusChanged",
    "ServerUpdated",
    "VolumeCreated",
    "VolumeDeleted",
    "VolumeUpdated",
  ],
};
// Lists of values need no connection, and a connection has `nodes` beside its edges, as GitHub's have. Relay lets an
// edge lead to any type: strict-id-in-types decides which of them are values.
const EDGES = { listTypeCanWrapOnlyEdgeType: false, shouldImplementNode: false };

const rules = {
  ...configs["flat/schema-recommended"].rules,
  ...configs["flat/schema-relay"].rules,
  "@graphql-eslint/input-name": "error",
  "@graphql-eslint/require-nullable-result-in-root": "error",
  "@graphql-eslint/require-field-of-type-query-in-mutation-result": "error",
  "@graphql-eslint/strict-id-in-types": ["error", { exceptions: WITHOUT_ID }],
  "@graphql-eslint/relay-edge-types": ["error", EDGES],
};

const config = {
  files: ["**/*.graphql"],
  plugins: { "@graphql-eslint": plugin },
  languageOptions: { parser, parserOptions: { graphQLConfig: { schema: path } } },
  rules,
};
const linter = new Linter({ configType: "flat", cwd: dirname(path) });
const found = linter.verify(readFileSync(path, "utf8"), config, { filename: basename(path) });
console.log(JSON.stringify(found.map(({ ruleId, line, message }) => ({ rule: ruleId, line, message }))));
