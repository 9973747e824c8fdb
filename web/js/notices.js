/** What a node said that still matters when its job has ended: newer front ends clear all texts below nodes then. */

import { app } from "../../../scripts/app.js"
import { textsIn } from "./texts.js"

const ENDS = ["execution_success", "execution_error", "execution_interrupted"]
// Nodes 2.0 renders these texts as markdown, in which a line's end is a space.
const LINES = `.widget-markdown[node-type^="CompInv"] .comfy-markdown-content p { white-space: pre-wrap }`
const lasting = new Map() // of the job that runs: node id -> text

function say() {
    for (const [nodeId, text] of lasting) app.api.dispatchCustomEvent("progress_text", { nodeId, text })
    lasting.clear()
}

app.registerExtension({
    name: "CompositionalInversion.Notices",
    setup() {
        document.head.append(Object.assign(document.createElement("style"), { textContent: LINES }))
        app.api.addEventListener("execution_start", () => lasting.clear())
        app.api.addEventListener("executed", ({ detail: { node, output } }) => {
            if (output?.text_lasts) lasting.set(node, output.text[0])
        })
        app.api.addEventListener("compinv_notice", ({ detail: { node, title, text } }) => {
            lasting.set(node, text)
            const summary = textsIn(app.extensionManager.setting.get("Comfy.Locale"))[title] ?? title
            app.extensionManager.toast.add({ severity: "warn", summary, detail: text })
        })
        for (const end of ENDS) app.api.addEventListener(end, () => setTimeout(say)) // after the front end has cleared them
    }
})
