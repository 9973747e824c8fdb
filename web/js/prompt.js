/** {concept} in Composition Prompt reaches the server as it is written: the front end's dynamic prompts take it for a choice of one. */

import { app } from "../../../scripts/app.js"

const CONCEPT = /(?<!\\)\{concept\}/g

app.registerExtension({
    name: "CompositionalInversion.Prompt",
    nodeCreated(node) {
        if (node.comfyClass !== "CompInvPrompt") return
        const text = node.widgets.find(widget => widget.name === "text")
        const choose = text.serializeValue
        text.serializeValue = function (...args) {
            const { options } = text
            const own = options.getValue
            // What is read changes and not the value: whoever types at that moment keeps the caret, and nothing counts as an edit.
            options.getValue = () => own.call(options).replace(CONCEPT, "\\{concept\\}")
            try {
                return choose.apply(this, args)
            } finally {
                options.getValue = own
            }
        }
    }
})
